"""``python -m secateurs``: what the command ``secateurs`` does."""

from secateurs.console_script import start

if __name__ == "__main__":
    start()

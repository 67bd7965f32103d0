"""``python -m secateurs``: what the command ``secateurs`` does."""

from secateurs.command import start

if __name__ == "__main__":
    start()

"""Run ``python -m secateurs``, which does the same as the command ``secateurs``."""

from secateurs.console_script import start

if __name__ == "__main__":
    start()

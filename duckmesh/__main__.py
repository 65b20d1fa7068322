"""``python -m duckmesh`` is the same as ``duckmesh``."""

from duckmesh.app.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m proxy COMMAND` is the same as `fairlead COMMAND`."""

from proxy.cli import main

if __name__ == "__main__":
    main()

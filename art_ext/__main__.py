"""`python -m art_ext` is `art-ext`; launchers such as torchrun start it so."""

from art_ext.host.cli import main

if __name__ == "__main__":
    main()

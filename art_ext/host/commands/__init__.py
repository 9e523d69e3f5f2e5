"""The commands of `art-ext`, a file each; imports wait until a command runs, so that `--help` is quick."""

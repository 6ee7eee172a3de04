"""The rooms behind the scripts: README.md names each."""

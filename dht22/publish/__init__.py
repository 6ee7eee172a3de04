"""What publish.py is made of."""

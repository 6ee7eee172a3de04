"""What server.py is made of."""

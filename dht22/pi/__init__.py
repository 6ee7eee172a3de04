"""What client.py and dht_read.py are made of; it runs on the Pi."""

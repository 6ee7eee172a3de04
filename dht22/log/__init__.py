"""The files that the server, report.py and publish.py share; the Pi's spool is a linefile too."""

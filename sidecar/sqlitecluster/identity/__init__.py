"""A pod's identity: key and certificate on its volume, TLS contexts that follow them, and who a peer is."""

"""The small certificate authority that Godwit keeps, and the files it lies in."""

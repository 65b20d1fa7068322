"""Object stores through fsspec: local, memory and S3."""

"""Sources of encoded images: files, Parquet, tar shards, the hub, and a flat file in the cache."""

"""Where encoded images lie: files, Parquet, tar shards, the hub, and a flat file in the cache."""

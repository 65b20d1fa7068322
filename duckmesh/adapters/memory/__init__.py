"""The reference model: a bus, a partitioned bus and a catalog in memory."""

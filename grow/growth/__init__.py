"""One whole growth: planned, written, verified and recorded, from file to file or in memory."""

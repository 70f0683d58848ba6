"""One whole growth: planned, written, verified and recorded, in files or in memory."""

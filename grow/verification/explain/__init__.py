"""Why a comparison failed, and where."""

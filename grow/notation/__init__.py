"""The mathematics of growth: axes, maps, operators and numbers. No file is read and no model is known here."""

"""The mathematics of growth: axes, maps, operators, numbers. It reads no file and knows no model."""

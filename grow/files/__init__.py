"""Files and folders, distrusted when read; what is written appears whole or not at all."""

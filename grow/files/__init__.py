"""Files and folders: distrusted when read, written whole or not at all."""

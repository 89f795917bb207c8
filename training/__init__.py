"""How the default model, pagereader-19m, is made: documents, trainer, export. See README.md."""

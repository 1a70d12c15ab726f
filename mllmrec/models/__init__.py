"""Language models as policies: built from scratch or loaded, with their tokenizer, chat template and adapters."""

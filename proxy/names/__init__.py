"""Host names: asked for without a thread, kept while they hold, used on while nobody answers."""

"""How the embedded models are made. Nothing that answers a question imports this."""

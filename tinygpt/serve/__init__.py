"""An OpenAI-compatible server: protocol.py says what a request means, engine.py writes, app.py speaks HTTP."""

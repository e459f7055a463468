"""The FaVChat model: encoders, prompt-query levels, processor, and the one place that reads video and finds faces."""

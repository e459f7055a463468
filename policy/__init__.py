"""The FaVChat model: encoders, prompt-query levels, processor; reading video and finding faces."""

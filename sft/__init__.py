"""The three progressive pre-training stages, on TRL's SFTTrainer."""

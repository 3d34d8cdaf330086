"""From tokens to latents: the fusion of modalities, the encoder of Perceiver and Perceiver IO, and that of Perceiver AR."""

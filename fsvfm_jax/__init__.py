"""FSFM / FS-VFM: self-supervised pretraining of face security vision transformers in JAX."""

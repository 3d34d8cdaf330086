"""Networks with feature maps or sequences as output, as adapters: their features become tokens on their own grid."""

"""Networks: encoders, conditioning, decoders, and the systems CTN, MHN and STN made of them."""

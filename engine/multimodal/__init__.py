"""From the files of a prompt to the visual embeddings of this rank's rows.

processors        how a video or picture fits into a prompt, its pixels, its embeddings
encoder           decode, preprocess, encode: all stages on one rank
unit_sharding     which rank encodes which unit; embeddings to the ranks whose rows need them
pixel_stream      the pixels of one rank, a few units at a time
token_budget      how many frames, and how large, fit into a number of visual tokens
embedding_cache, embedding_store   embeddings cached in memory and in a bounded folder
fingerprint       files, arrays and models by hashes
warnings          frames that could not be decoded, reported once for all ranks
single_video      a video without a prompt around it
"""

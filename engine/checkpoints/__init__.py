"""Checkpoint folders in Hugging Face form: where they come from, their files, their tensors. What
the settings in them mean is said by `models` and by the application.

    hub            the embedded model, a folder, or the Hugging Face hub and its cache
    files          small files of a folder, bounded
    weight_files   which files hold the weights, mapped and not read
    load           checked, then tensor by tensor into the parameters
    random         models with random weights, on disk or on a device
"""

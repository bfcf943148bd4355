"""One file per attention library, each behind `base.Backend`; `reference` is the definition."""

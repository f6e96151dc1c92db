"""From a labelled data set to a measured artifact. Serving imports nothing from here."""

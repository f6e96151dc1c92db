"""Everything that can go wrong with a photo or a model, in one place.

    photo bytes ── decode ──> image ── engine ──> probabilities ── labels
                     │
                     └─ PhotoFault: the fault of this one photo
                          UnsupportedFormat   bytes of none of the accepted formats
                          UndecodablePhoto    an accepted format, broken
                          PhotoTooLarge       more pixels than the limit
                          PhotoTooCostly      decoding it would take too long

    probabilities ── labels
                       │
                       ├─ PrecisionUnknown: the model promises none
                       ├─ EmbeddingUnknown: the model has none
                       └─ ProfileUnknown: the operator has set up none of that name

    data set ── training ──> artifact ── load ──> engine
       │                        │
       └─ DataSetError          └─ ArtifactError: missing, altered or inconsistent

    profile ── read
                 │
                 └─ ProfileError: missing, wrong, or of another model

    file of keys ── read, add, revoke
                       │
                       └─ KeysError: missing, wrong, or no such key

The ingress turns the faults of photos and of choices into an HTTP status; the commands turn the
others into an exit code.
"""


class MlcError(Exception):
    """Base of every error that this package raises on purpose; its text says what to do."""


class PhotoFault(MlcError):
    """One photo can't be classified; the text is meant for the client that sent it."""


class UnsupportedFormat(PhotoFault):
    """The bytes are of none of the accepted image formats."""


class UndecodablePhoto(PhotoFault):
    """The bytes begin like an image but can't be decoded."""


class PhotoTooLarge(PhotoFault):
    """The photo has more pixels than the limit."""


class PhotoTooCostly(PhotoFault):
    """The photo is within the limits of bytes and pixels, but decoding it would take too long."""


class ChoiceRefused(MlcError):
    """A client asks for what the model in service does not have."""


class PrecisionUnknown(ChoiceRefused):
    """A client asks for a precision, and the model has no thresholds."""


class EmbeddingUnknown(ChoiceRefused):
    """A client asks for an embedding, and the model has none."""


class ProfileUnknown(ChoiceRefused):
    """A client asks for a profile, and the service has none of that name."""


class ProfileError(MlcError):
    """A profile can't be read, or does not fit the model."""


class ArtifactError(MlcError):
    """A model artifact is missing, altered, or contradicts itself."""


class KeysError(MlcError):
    """The file of API keys is missing or wrong, or a name is."""


class DataSetError(MlcError):
    """A data set can't be read, or holds too little to train on."""

//! A streaming writer of EROFS file-system images.

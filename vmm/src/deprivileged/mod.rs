//! Hosts whose KVM is deprivileged: detected, and all remedies in one place.

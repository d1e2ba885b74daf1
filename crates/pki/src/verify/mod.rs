//! Certification paths, answered as Go's `crypto/x509` answers.

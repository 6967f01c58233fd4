//! Which certificates are believed where this program is a TLS client: Mozilla's roots, which are compiled in, and those of a
//! private authority that a file names.
//!
//! The file adds to the roots and takes nothing away. Stripe is always met with the compiled-in roots alone: a company's own
//! authority must not be able to stand in for it.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::files;

/// Names a file with more roots, as OpenSSL and curl read it too.
pub const CA_FILE_VARIABLE: &str = "SSL_CERT_FILE";

/// A bundle of all public roots is a quarter of this.
const MAX_FILE: u64 = 2 * 1024 * 1024;

/// Roots that are believed besides the compiled-in ones. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust(Arc<[CertificateDer<'static>]>);

impl Trust {
    /// Adds the certificates of a PEM file.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let mut bytes = Vec::new();
        let read = files::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("cannot read {shown}: {error}"))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(format!("{shown} is larger than {MAX_FILE} bytes"));
        }
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let certificates = certificates
            .map_err(|_| format!("{shown} cannot be read as PEM: -----BEGIN CERTIFICATE-----"))?;
        let usable = RootCertStore::empty().add_parsable_certificates(certificates.iter().cloned()).0;
        if usable == 0 {
            return Err(format!(
                "{shown} holds no certificate of an authority: it must be PEM, -----BEGIN CERTIFICATE-----"
            ));
        }
        Ok(Self(certificates.into()))
    }

    /// Believes what both believe.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(other.0.iter()).cloned().collect())
    }

    /// How a client that believes them speaks TLS.
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        // One odd certificate in a bundle must not make all others useless.
        roots.add_parsable_certificates(self.0.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::DEFAULT_VERSIONS);
        // Refused only for a provider without a cipher suite of such a version, which ring is not.
        let builder = builder.expect("ring speaks the default versions of TLS");
        builder.with_root_certificates(roots).with_no_client_auth()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_names_no_authority_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let own = rcgen::generate_simple_self_signed(["api.internal".to_owned()]).unwrap().cert.pem();
        let broken = own.replacen("MII", "!!!", 1);
        for (name, text, part) in [
            ("empty.pem", "", "holds no certificate"),
            (
                "key.pem",
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "holds no certificate",
            ),
            ("broken.pem", &broken, "cannot be read as PEM"),
            (
                "no.pem",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "holds no certificate",
            ),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let refused = Trust::from_file(&path).unwrap_err();
            assert!(refused.contains(part) && refused.contains(name), "{name}: {refused}");
        }
        let refused = Trust::from_file(folder.path()).unwrap_err();
        assert!(refused.contains("is not a file"), "{refused}");
        let good = folder.path().join("good.pem");
        std::fs::write(&good, format!("a comment\n{own}")).unwrap();
        assert_eq!(Trust::from_file(&good).unwrap().0.len(), 1);
    }
}

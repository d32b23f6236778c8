//! Secrets that functions may read.

use super::{ChangeError, Inner, Node, stored};
use crate::id::{Namespace, SecretName};
use crate::store::SecretValue;

impl Node {
    /// Names of secrets, never values.
    pub async fn secrets(&self, namespace: &Namespace) -> Result<Vec<SecretName>, ChangeError> {
        let secrets = self.inner.store.secrets(namespace).await;
        secrets.map_err(|source| stored("list secrets", source))
    }

    /// Makes a secret that is not there yet.
    pub async fn create_secret(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: Vec<u8>,
    ) -> Result<(), ChangeError> {
        let _change = self.inner.change.lock().await;
        if self.secrets(&namespace).await?.contains(&name) {
            let text = format!("secret {name} exists already: replace it with PUT");
            return Err(ChangeError::Exists(text));
        }
        self.inner.put_secret(namespace, name, value).await?;
        self.inner.abilities_changed();
        Ok(())
    }

    /// Replaces a secret's value. Functions that name it get new instances;
    /// calls that run end with the old value.
    pub async fn replace_secret(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: Vec<u8>,
    ) -> Result<(), ChangeError> {
        let _change = self.inner.change.lock().await;
        if !self.secrets(&namespace).await?.contains(&name) {
            return Err(no_secret(&namespace, &name));
        }
        self.inner
            .put_secret(namespace.clone(), name.clone(), value)
            .await?;
        self.inner.renew_instances(&namespace, &name);
        self.inner.abilities_changed();
        Ok(())
    }

    /// Removes a secret. Functions that name it cannot be started any more.
    pub async fn remove_secret(
        &self,
        namespace: &Namespace,
        name: &SecretName,
    ) -> Result<(), ChangeError> {
        let _change = self.inner.change.lock().await;
        let removed = self.inner.store.remove_secret(namespace, name).await;
        match removed.map_err(|source| stored("remove the secret", source))? {
            true => {
                // Instances that are there have its value: they take no new calls.
                self.inner.renew_instances(namespace, name);
                self.inner.abilities_changed();
                Ok(())
            }
            false => Err(no_secret(namespace, name)),
        }
    }
}

impl Inner {
    async fn put_secret(
        &self,
        namespace: Namespace,
        name: SecretName,
        value: Vec<u8>,
    ) -> Result<(), ChangeError> {
        let kept = self
            .store
            .put_secret(&namespace, &name, &SecretValue::new(value))
            .await;
        kept.map_err(|source| stored("keep the secret", source))
    }
}

fn no_secret(namespace: &Namespace, name: &SecretName) -> ChangeError {
    ChangeError::NotFound(format!(
        "secret {name} does not exist in namespace {namespace}"
    ))
}

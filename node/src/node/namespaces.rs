//! Namespaces: the tenants of a node.

use std::collections::BTreeMap;

use parking_lot::MutexGuard;
use serde::Serialize;

use super::{ChangeError, Inner, Node, stored};
use crate::id::Namespace;
use crate::store::NamespaceRecord;

/// A namespace with what was said of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NamespaceInfo {
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Node {
    /// Namespaces by name: the default one, those made on purpose, and those
    /// that functions are in.
    pub fn namespaces(&self) -> BTreeMap<Namespace, NamespaceInfo> {
        let mut all = self.inner.namespaces().clone();
        all.entry(Namespace::default()).or_default();
        for function in &self.inner.functions {
            all.entry(function.key().namespace.clone()).or_default();
        }
        all
    }

    /// Makes a namespace.
    pub async fn create_namespace(
        &self,
        name: Namespace,
        info: NamespaceInfo,
    ) -> Result<(), ChangeError> {
        if self.namespaces().contains_key(&name) {
            return Err(ChangeError::Exists(format!(
                "namespace {name} exists already"
            )));
        }
        self.inner.put_namespace(name, info).await
    }

    /// Changes what is said of a namespace.
    pub async fn update_namespace(
        &self,
        name: Namespace,
        info: NamespaceInfo,
    ) -> Result<(), ChangeError> {
        if !self.namespaces().contains_key(&name) {
            return Err(ChangeError::NotFound(format!(
                "namespace {name} does not exist"
            )));
        }
        self.inner.put_namespace(name, info).await
    }

    /// Removes an empty namespace.
    pub async fn remove_namespace(&self, name: &Namespace) -> Result<(), ChangeError> {
        if !self.namespaces().contains_key(name) {
            return Err(ChangeError::NotFound(format!(
                "namespace {name} does not exist"
            )));
        }
        if *name == Namespace::default() {
            return Err(ChangeError::Invalid(
                "the default namespace cannot be removed".to_owned(),
            ));
        }
        let secrets = self.secrets(name).await?.len();
        let functions = self.functions(Some(name)).len();
        if functions + secrets > 0 {
            return Err(ChangeError::Exists(format!(
                "namespace {name} still holds {functions} functions and {secrets} secrets: remove \
                 them first"
            )));
        }
        let removed = self.inner.store.remove_namespace(name).await;
        removed.map_err(|source| stored("remove the namespace", source))?;
        self.inner.namespaces().remove(name);
        Ok(())
    }
}

impl Inner {
    pub(super) fn namespaces(&self) -> MutexGuard<'_, BTreeMap<Namespace, NamespaceInfo>> {
        self.namespaces.lock()
    }

    async fn put_namespace(&self, name: Namespace, info: NamespaceInfo) -> Result<(), ChangeError> {
        let record = NamespaceRecord {
            annotations: info.annotations.clone(),
            labels: info.labels.clone(),
        };
        let kept = self.store.put_namespace(&name, &record).await;
        kept.map_err(|source| stored("keep the namespace", source))?;
        self.namespaces().insert(name, info);
        Ok(())
    }
}

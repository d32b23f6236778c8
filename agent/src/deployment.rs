//! A function that is to be deployed, and what is sent to a node for it.

pub mod options;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use weir_node::function::CodeSource;
use weir_node::id::DEFAULT_NAMESPACE;

use self::options::{DeployOption, OPTIONS, Place, Way, Within};
use crate::document::Value;

/// OpenFaaS's label of whether none may be.
const SCALE_ZERO: &str = "com.openfaas.scale.zero";

/// Where the code of a function is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// In a file, to be uploaded.
    File(PathBuf),
    /// In an archive or OCI layout of a container image, to be uploaded.
    Image(PathBuf),
    /// In a file or folder of source code, to be packed and uploaded.
    Source(PathBuf),
    /// At the node already, or in an image that its engine gets.
    Named(CodeSource),
}

/// A function to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its name, without namespace.
    pub name: String,
    /// Its code.
    pub code: Code,
    /// Everything else.
    pub settings: Settings,
}

/// What a deployment says of a function; what it leaves out is the node's choice.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The tenant.
    pub namespace: Option<String>,
    /// Options that are one text, by key, as they are sent.
    texts: BTreeMap<&'static str, String>,
    /// Environment of the code.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Names of secrets that the code may read.
    pub secrets: Vec<String>,
    /// Placement constraints.
    pub constraints: Vec<String>,
    /// Limits beyond memory and processors, as written.
    pub limits: BTreeMap<String, String>,
    /// Requests, as written.
    pub requests: BTreeMap<String, String>,
    /// Whether the root file system is read-only.
    pub read_only_root_filesystem: bool,
    /// The command of an OpenFaaS watchdog.
    pub env_process: Option<String>,
}

impl Settings {
    /// Says `value` of `option`.
    ///
    /// # Errors
    /// A sentence, when people do not write the option so.
    pub fn set(&mut self, option: &DeployOption, value: &Value) -> Result<(), String> {
        match &option.way {
            Way::Text { kind, .. } => match (kind.write)(value)? {
                Some(text) => self.texts.insert(option.key, text),
                None => self.texts.remove(option.key),
            },
            Way::Field { field, .. } => return field(self).assign(value),
        };
        Ok(())
    }

    /// The same settings, with the option `key` as the program itself says it.
    #[must_use]
    pub fn with(mut self, key: &str, text: &str) -> Self {
        let option = DeployOption::named(key).expect("an option of ours");
        let set = self.set(option, &Value::Text(text.to_owned()));
        set.expect("a value of ours");
        self
    }

    /// What is sent for the option `key`, if anything is said of it.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// What is said in one text, and where that stands.
    fn texts(&self) -> impl Iterator<Item = (Place, &str)> {
        OPTIONS.iter().filter_map(|option| match &option.way {
            Way::Text { place, .. } => Some((*place, self.text(option.key)?)),
            Way::Field { .. } => None,
        })
    }
}

/// The body of `PUT` and `POST /system/functions`.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WireDeployment {
    pub(crate) service: String,
    image: String,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) env_process: Option<String>,
    pub(crate) env_vars: BTreeMap<String, String>,
    constraints: Vec<String>,
    secrets: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) limits: BTreeMap<String, String>,
    requests: BTreeMap<String, String>,
    read_only_root_filesystem: bool,
}

impl WireDeployment {
    /// What is sent for `deployment` once its code is at the node as `code`.
    /// `namespace` is where a deployment goes that names none.
    pub fn new(deployment: &Deployment, code: &CodeSource, namespace: Option<&str>) -> Self {
        let settings = &deployment.settings;
        let namespace = settings
            .namespace
            .as_deref()
            .or(namespace)
            .unwrap_or(DEFAULT_NAMESPACE);

        let mut annotations = settings.annotations.clone();
        let mut labels = settings.labels.clone();
        let mut limits = settings.limits.clone();
        for (place, text) in settings.texts() {
            let map = match place.within {
                Within::Annotations => &mut annotations,
                Within::Labels => &mut labels,
                Within::Limits => &mut limits,
            };
            map.insert(place.name.to_owned(), text.to_owned());
        }
        // May it go away when nobody calls? OpenFaaS asks by a label of its own.
        if settings.text("min") == Some("0") {
            labels.insert(SCALE_ZERO.to_owned(), "true".to_owned());
        }

        WireDeployment {
            service: deployment.name.clone(),
            image: code.to_string(),
            namespace: namespace.to_owned(),
            env_process: settings.env_process.clone(),
            env_vars: settings.env.clone(),
            constraints: settings.constraints.clone(),
            secrets: settings.secrets.clone(),
            labels,
            annotations,
            limits,
            requests: settings.requests.clone(),
            read_only_root_filesystem: settings.read_only_root_filesystem,
        }
    }

    /// The namespace that it goes to.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

use std::path::Path;

use super::config;
use crate::{ModelError, Pooling};

/// What the head of a checkpoint of the BERT family is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// There is none: the encoder alone, or a head that is not known here.
    None,
    /// Filling in masks, with or without next sentence prediction beside.
    MaskedLm,
    /// Classes of texts, or a number for each.
    SequenceClassification,
}

/// What the head in a Hugging Face folder is for, by the `architectures` of its `config.json`. A classifier with mean pooling, of
/// which `transformers` has none, is known by our own key for the pooling.
///
/// # Errors
///
/// When the folder is no checkpoint of the BERT family.
pub fn open_bert_head(dir: &Path) -> Result<HeadKind, ModelError> {
    let file = super::open(dir)?;
    let architectures: Vec<String> = file.get("architectures", Vec::new())?;
    let ends_in = |ending: &str| architectures.iter().any(|name| name.ends_with(ending));
    Ok(if ends_in("ForSequenceClassification") || config::names_pooling(&file)? {
        HeadKind::SequenceClassification
    } else if ends_in("ForMaskedLM") || ends_in("ForPreTraining") {
        HeadKind::MaskedLm
    } else {
        HeadKind::None
    })
}

/// What the classification head in a Hugging Face folder sees, by its `config.json`; the first token where that says nothing.
///
/// # Errors
///
/// When the folder is no checkpoint of the BERT family.
pub fn open_bert_pooling(dir: &Path) -> Result<Pooling, ModelError> {
    config::read_pooling(&super::open(dir)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_architecture_tells_the_head() {
        let folder = tempfile::tempdir().unwrap();
        let kind = |architectures: &str| {
            let text = format!("{{\"model_type\": \"bert\"{architectures}}}");
            std::fs::write(folder.path().join("config.json"), text).unwrap();
            open_bert_head(folder.path())
        };
        assert_eq!(kind("").unwrap(), HeadKind::None);
        assert_eq!(kind(r#", "architectures": ["BertModel"]"#).unwrap(), HeadKind::None);
        assert_eq!(kind(r#", "architectures": ["BertForPreTraining"]"#).unwrap(), HeadKind::MaskedLm);
        assert_eq!(kind(r#", "architectures": ["RobertaForMaskedLM"]"#).unwrap(), HeadKind::MaskedLm);
        let classifier = r#", "architectures": ["DistilBertForSequenceClassification"]"#;
        assert_eq!(kind(classifier).unwrap(), HeadKind::SequenceClassification);
        let mean = r#", "architectures": ["BertModel"], "fornax_pooling": "mean""#;
        assert_eq!(kind(mean).unwrap(), HeadKind::SequenceClassification);
        let error = kind(r#", "architectures": "BertModel""#).unwrap_err().to_string();
        assert!(error.contains("`architectures` is \"BertModel\""), "{error}");
    }
}

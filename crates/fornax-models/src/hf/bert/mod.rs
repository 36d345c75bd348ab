mod config;
mod head;
mod lora;
mod names;

use std::path::Path;

use burn::{module::Module, tensor::Device};
use fornax_nn::{Init, initialise};

pub use head::{HeadKind, open_bert_head, open_bert_pooling};
pub use lora::save_bert_lora;
pub(super) use names::{Head, bert_table};

use super::{
    Archive, CONFIG, ConfigFile, LoadReport,
    write::{write_beside, write_safetensors},
};
use crate::{
    Bert, BertConfig, BertFamily, BertForMaskedLm, BertForPreTraining, BertForSequenceClassification, ClassifierConfig,
    ModelError, Pooling, with_new_head,
};

/// The sizes of the BERT, RoBERTa or DistilBERT in a Hugging Face folder, by its `config.json` alone.
///
/// # Errors
///
/// When the folder is no checkpoint of one of them or has features that ours lack.
pub fn open_bert_config(dir: &Path) -> Result<BertConfig, ModelError> {
    config::read(&open(dir)?)
}

fn open(dir: &Path) -> Result<ConfigFile, ModelError> {
    ConfigFile::open(dir, &config::MODEL_TYPES)
}

/// Loads the encoder from a Hugging Face folder of the BERT family, as `f32`.
///
/// Read are `config.json` and `model.safetensors`, or the shards of `model.safetensors.index.json`; `f16` and `bf16`
/// weights are widened. Names may lack the prefix (`bert.`, `roberta.`, `distilbert.`) and may end in `gamma` and `beta`.
/// Buffers are passed over and listed in the report, as are the tensors of heads.
///
/// # Errors
///
/// When the folder is no checkpoint of the family, has features that ours lacks, or when tensors of the encoder are missing,
/// unexpected or of another shape; the message names each.
pub fn load_bert(dir: &Path, device: &Device) -> Result<(Bert, LoadReport), ModelError> {
    let config = open_bert_config(dir)?;
    let model = initialise(Bert::new(&config, device), 0, |_, _| Init::Constant(0.0));
    load(model, &config, Head::None, dir)
}

/// [`load_bert`] with the masked-language-model head.
///
/// Tensors of the head that the checkpoint lacks are drawn from `seed` as
/// [`init_masked_lm`](BertConfig::init_masked_lm) draws them, and listed in the report. Copies of the token embedding and of
/// the bias under the names of the decoder are passed over.
///
/// # Errors
///
/// As [`load_bert`], and when a copy differs from what it is tied to.
pub fn load_bert_for_masked_lm(
    dir: &Path,
    seed: u64,
    device: &Device,
) -> Result<(BertForMaskedLm, LoadReport), ModelError> {
    let config = open_bert_config(dir)?;
    let model = with_new_head(BertForMaskedLm::new(&config, device), seed);
    load(model, &config, Head::MaskedLm, dir)
}

/// [`load_bert_for_masked_lm`] with pooler and next-sentence head besides.
///
/// # Errors
///
/// As [`load_bert_for_masked_lm`], and for another family than BERT.
pub fn load_bert_for_pretraining(
    dir: &Path,
    seed: u64,
    device: &Device,
) -> Result<(BertForPreTraining, LoadReport), ModelError> {
    let config = open_bert_config(dir)?;
    config.require_next_sentence()?;
    let model = with_new_head(BertForPreTraining::new(&config, device), seed);
    load(model, &config, Head::PreTraining, dir)
}

/// How [`load_bert_for_sequence_classification`] makes the head. The default takes everything from the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadClassifier {
    /// Names of the classes, one for regression; none are those of `config.json`, and two where it has none.
    pub labels: Option<Vec<String>>,
    /// What the head sees; none is what `config.json` says, and the first token where it says nothing.
    pub pooling: Option<Pooling>,
    /// Whether the last layer is drawn anew when the checkpoint's has another number of classes, which otherwise is an
    /// error. (`ignore_mismatched_sizes` of `transformers`.)
    pub replace_head: bool,
    /// What new tensors are drawn from.
    pub seed: u64,
}

/// [`load_bert`] with a head for sequence classification or regression.
///
/// Tensors of the head that the checkpoint lacks are drawn as
/// [`init_sequence_classification`](BertConfig::init_sequence_classification) draws them, and listed in the report. A head for as many
/// classes is kept whatever they are called, as in `transformers`; a log line gives both names.
///
/// # Errors
///
/// As [`load_bert`]; [`ModelError::Labels`]; and when the head has another number of classes and isn't to be replaced.
pub fn load_bert_for_sequence_classification(
    dir: &Path,
    options: &LoadClassifier,
    device: &Device,
) -> Result<(BertForSequenceClassification, LoadReport), ModelError> {
    let file = open(dir)?;
    let config = config::read(&file)?;
    let classifier = match &options.labels {
        Some(labels) => ClassifierConfig { labels: labels.clone(), pooling: config::read_pooling(&file)? },
        None => config::read_classifier(&file)?,
    };
    let classifier = ClassifierConfig { pooling: options.pooling.unwrap_or(classifier.pooling), ..classifier };
    classifier.validate()?;
    let model = with_new_head(BertForSequenceClassification::new(&config, &classifier, device), options.seed);
    let (model, report) = load(model, &config, Head::Classifier(&classifier, options.replace_head), dir)?;
    // A head of another kind (several labels at once) names none that could be read; it is kept all the same.
    if report.initialised.is_empty()
        && let Ok(stored) = config::read_classifier(&file)
        && stored.labels != classifier.labels
    {
        let (was, is) = (stored.labels.join(", "), classifier.labels.join(", "));
        tracing::info!("{}: its head for {was} is kept and learns {is}", dir.display());
    }
    Ok((model, report))
}

fn load<M: Module>(model: M, config: &BertConfig, head: Head<'_>, dir: &Path) -> Result<(M, LoadReport), ModelError> {
    let archive = Archive::open(dir)?;
    let (model, report) = bert_table(config, head).load(model, &archive)?;
    report.log(architecture(config.family, head), dir);
    Ok((model, report))
}

/// Writes an encoder as a Hugging Face folder, without a prefix and without a pooler, as `AutoModel` of `transformers` loads
/// it.
///
/// Weights are stored as `f32`. A model without token types is written with one whose vector is zero and
/// `"fornax_type_vocab_size": 0` in `config.json`, by which [`load_bert`] restores it. `pad_token` is the token of the
/// model's tokenizer that pads, if it has one: `pad_token_id`. Each file is written beside and renamed; `config.json` comes
/// last.
///
/// # Errors
///
/// When the folder or a file can't be written, or when a RoBERTa's `pad_token` isn't 1, from which its positions count.
pub fn save_bert(model: &Bert, dir: &Path, pad_token: Option<u32>) -> Result<(), ModelError> {
    save(model, &model.config(), Head::None, dir, pad_token)
}

/// [`save_bert`] with the masked-language-model head, as `AutoModelForMaskedLM` loads it.
///
/// # Errors
///
/// As [`save_bert`].
pub fn save_bert_for_masked_lm(model: &BertForMaskedLm, dir: &Path, pad_token: Option<u32>) -> Result<(), ModelError> {
    save(model, &model.bert.config(), Head::MaskedLm, dir, pad_token)
}

/// [`save_bert`] with pooler and both heads, as `AutoModelForPreTraining` loads it.
///
/// # Errors
///
/// As [`save_bert`].
pub fn save_bert_for_pretraining(
    model: &BertForPreTraining,
    dir: &Path,
    pad_token: Option<u32>,
) -> Result<(), ModelError> {
    save(model, &model.bert.config(), Head::PreTraining, dir, pad_token)
}

/// [`save_bert`] with a classification head, as `AutoModelForSequenceClassification` loads it.
///
/// `transformers` has no mean pooling: such a model is written with `"fornax_pooling": "mean"`, by which
/// [`load_bert_for_sequence_classification`] restores it, and is a `BertModel` to others.
///
/// # Errors
///
/// As [`save_bert`].
pub fn save_bert_for_sequence_classification(
    model: &BertForSequenceClassification,
    dir: &Path,
    pad_token: Option<u32>,
) -> Result<(), ModelError> {
    save(model, &model.bert.config(), Head::Classifier(model.classifier(), false), dir, pad_token)
}

fn save<M: Module>(
    model: &M,
    config: &BertConfig,
    head: Head<'_>,
    dir: &Path,
    pad_token: Option<u32>,
) -> Result<(), ModelError> {
    let classifier = match head {
        Head::Classifier(classifier, _) => Some(classifier),
        _ => None,
    };
    let json = config::write(config, architecture(config.family, head), classifier, pad_token)?;
    std::fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    write_safetensors(&dir.join("model.safetensors"), &bert_table(config, head).export(model))?;
    let path = dir.join(CONFIG);
    let text = serde_json::to_string_pretty(&json).map_err(ModelError::json(&path))?;
    write_beside(&path, |file| std::io::Write::write_all(file, (text + "\n").as_bytes()))
}

/// The class of `transformers` that loads the model.
fn architecture(family: BertFamily, head: Head<'_>) -> &'static str {
    let [model, masked_lm, classifier] = match family {
        BertFamily::Bert => ["BertModel", "BertForMaskedLM", "BertForSequenceClassification"],
        BertFamily::Roberta => ["RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification"],
        BertFamily::DistilBert => ["DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"],
    };
    match head {
        Head::None => model,
        Head::MaskedLm => masked_lm,
        Head::PreTraining => "BertForPreTraining",
        Head::Classifier(config, _) if config.pooling == Pooling::Mean => model,
        Head::Classifier(..) => classifier,
    }
}

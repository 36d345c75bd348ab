use std::{collections::BTreeMap, path::Path};

use serde_json::json;

use super::{Head, bert_table};
use crate::{
    BertFamily, BertForSequenceClassification, LoraConfig, ModelError,
    hf::{
        HostTensor, Layout,
        table::{read_parameters, transpose},
        write::{write_beside, write_safetensors},
    },
};

/// What PEFT writes before every name.
const PREFIX: &str = "base_model.model.";

/// Writes the adapters of a classifier and its head, without the encoder, as a folder that PEFT loads over the checkpoint `base`, if
/// there is one: `adapter_config.json` and `adapter_model.safetensors`.
///
/// # Errors
///
/// When the folder or a file can't be written.
pub fn save_bert_lora(
    model: &BertForSequenceClassification,
    config: &LoraConfig,
    base: Option<&Path>,
    dir: &Path,
) -> Result<(), ModelError> {
    let merged = model.clone().merge_lora();
    let table = bert_table(&merged.bert.config(), Head::Classifier(merged.classifier(), false));
    let mut parameters = read_parameters(model);
    let (mut tensors, mut adapted, mut heads) = (BTreeMap::new(), Vec::new(), Vec::new());
    for entry in &table.entries {
        let layer = entry.path.strip_suffix(".weight");
        let factors = layer.and_then(|layer| {
            let a = parameters.remove(&format!("{layer}.lora.a"))?;
            Some((a, parameters.remove(&format!("{layer}.lora.b"))?))
        });
        if let (Some((a, b)), Some(name)) = (factors, entry.name.strip_suffix(".weight")) {
            tensors.insert(format!("{PREFIX}{name}.lora_A.weight"), transpose(a));
            tensors.insert(format!("{PREFIX}{name}.lora_B.weight"), transpose(b));
            adapted.push(name.to_owned());
        } else if entry.path.starts_with("head.")
            && let Some(tensor) = parameters.remove(&entry.path)
        {
            let tensor: HostTensor = if entry.layout == Layout::Transposed { transpose(tensor) } else { tensor };
            tensors.insert(format!("{PREFIX}{}", entry.name), tensor);
            heads.extend(entry.name.rsplit_once('.').map(|(module, _)| module.to_owned()));
        }
    }
    heads.dedup();
    if merged.bert.config().family == BertFamily::Roberta {
        // PEFT saves this module of every classifier on its own account, and can't load the layers inside it once more.
        heads = vec!["classifier".to_owned()];
    }
    let json = json!({
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": heads,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": adapted,
        "task_type": "SEQ_CLS",
        "use_dora": false,
        "use_rslora": false,
    });
    std::fs::create_dir_all(dir).map_err(ModelError::io(dir))?;
    write_safetensors(&dir.join("adapter_model.safetensors"), &tensors)?;
    let path = dir.join("adapter_config.json");
    let text = serde_json::to_string_pretty(&json).map_err(ModelError::json(&path))?;
    write_beside(&path, |file| std::io::Write::write_all(file, (text + "\n").as_bytes()))
}

#[cfg(test)]
mod tests {
    use fornax_backend::test_device;
    use safetensors::SafeTensors;

    use crate::{BertConfig, BertFamily, ClassifierConfig, LoraConfig, LoraTarget, Pooling};

    #[test]
    fn an_adapter_folder_has_the_names_and_layouts_of_peft() {
        let sizes = BertConfig {
            vocab_size: 31,
            max_positions: 8,
            hidden_size: 12,
            num_layers: 1,
            num_heads: 3,
            intermediate_size: 20,
            ..BertConfig::default()
        };
        let config = LoraConfig { rank: 2, targets: vec![LoraTarget::Query, LoraTarget::Up], ..LoraConfig::default() };
        let names = |family, type_vocab_size| {
            let classifier = ClassifierConfig::numbered(3, Pooling::Cls);
            let sizes = BertConfig { family, type_vocab_size, ..sizes.clone() };
            let model = sizes.init_sequence_classification(&classifier, 1, &test_device()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let adapted = model.with_lora(&config, 1).unwrap();
            super::save_bert_lora(&adapted, &config, Some("base".as_ref()), folder.path()).unwrap();
            let json = std::fs::read(folder.path().join("adapter_config.json")).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!((json["r"].as_u64(), json["lora_alpha"].as_f64()), (Some(2), Some(8.0)));
            let bytes = std::fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let mut found: Vec<_> = file.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
            found.sort();
            (found, json["modules_to_save"].clone())
        };
        let (found, saved) = names(BertFamily::Bert, 2);
        let expected = [
            ("bert.encoder.layer.0.attention.self.query.lora_A.weight", vec![2, 12]),
            ("bert.encoder.layer.0.attention.self.query.lora_B.weight", vec![12, 2]),
            ("bert.encoder.layer.0.intermediate.dense.lora_A.weight", vec![2, 12]),
            ("bert.encoder.layer.0.intermediate.dense.lora_B.weight", vec![20, 2]),
            ("bert.pooler.dense.bias", vec![12]),
            ("bert.pooler.dense.weight", vec![12, 12]),
            ("classifier.bias", vec![3]),
            ("classifier.weight", vec![3, 12]),
        ];
        assert_eq!(found, expected.map(|(name, shape)| (format!("base_model.model.{name}"), shape)));
        assert_eq!(saved, serde_json::json!(["bert.pooler.dense", "classifier"]));
        let (found, saved) = names(BertFamily::DistilBert, 0);
        assert!(found[0].0.starts_with("base_model.model.classifier.bias"), "{found:?}");
        assert!(found.iter().any(|(name, _)| name.ends_with("layer.0.attention.q_lin.lora_A.weight")), "{found:?}");
        assert_eq!(saved, serde_json::json!(["pre_classifier", "classifier"]));
        let (found, saved) = names(BertFamily::Roberta, 1);
        assert!(found.iter().any(|(name, _)| name == "base_model.model.classifier.out_proj.weight"), "{found:?}");
        assert_eq!(saved, serde_json::json!(["classifier"]));
    }
}

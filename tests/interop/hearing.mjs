// Tokens that follow a prompt with a sound in it: node hearing.mjs FOLDER MODEL INPUTS.json RESULTS.json
import { readFileSync, writeFileSync } from 'node:fs';
import { env, Tensor, VoxtralForConditionalGeneration } from '@huggingface/transformers';

const [folder, name, inputs, output] = process.argv.slice(2);
env.localModelPath = folder;
env.allowRemoteModels = false;
const { ids, features, dims, tokens } = JSON.parse(readFileSync(inputs, 'utf8'));
const model = await VoxtralForConditionalGeneration.from_pretrained(name, { dtype: 'fp32' });
const found = await model.generate({
  input_ids: new Tensor('int64', BigInt64Array.from(ids.map(BigInt)), [1, ids.length]),
  attention_mask: new Tensor('int64', new BigInt64Array(ids.length).fill(1n), [1, ids.length]),
  audio_values: new Tensor('float32', Float32Array.from(features), dims),
  max_new_tokens: tokens,
  min_new_tokens: tokens,
  do_sample: false,
});
writeFileSync(output, JSON.stringify(Array.from(found.data, Number)));

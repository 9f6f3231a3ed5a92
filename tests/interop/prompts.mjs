// Tokens that follow a prompt with images or sounds in it: node prompts.mjs FOLDER MODEL CLASS INPUTS.json RESULTS.json
import { readFileSync, writeFileSync } from 'node:fs';
import * as transformers from '@huggingface/transformers';

const [folder, name, kind, inputs, output] = process.argv.slice(2);
const { env, Tensor } = transformers;
env.localModelPath = folder;
env.allowRemoteModels = false;
const ARRAYS = {
  int64: (data) => BigInt64Array.from(data.map(BigInt)),
  float32: (data) => Float32Array.from(data),
  bool: (data) => Uint8Array.from(data),
};
const { tensors, tokens } = JSON.parse(readFileSync(inputs, 'utf8'));
const given = Object.fromEntries(
  Object.entries(tensors).map(([key, { type, data, dims }]) => [key, new Tensor(type, ARRAYS[type](data), dims)]),
);
const model = await transformers[kind].from_pretrained(name, { dtype: 'fp32' });
const options = { max_new_tokens: tokens, min_new_tokens: tokens, do_sample: false };
const found = await model.generate({ ...given, ...options });
writeFileSync(output, JSON.stringify(Array.from(found.data, Number)));

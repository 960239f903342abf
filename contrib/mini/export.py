"""Training checkpoints <-> a directory laid out like the release on Hugging Face.

    python3 export.py CHECKPOINT_DIR OUTPUT_DIR
    python3 export.py --back MODEL_DIR CHECKPOINT_DIR          (to continue training)
"""
import json
import os
import sys

import torch

import model as M
import pipeline as P


def part(d, file, key, mod):
    sd = torch.load(os.path.join(d, file + '.pt'), map_location='cpu')
    mod.load_state_dict({k[len(key) + 1:]: v.float() for k, v in sd.items() if k.startswith(key + '.')})
    return mod


# NOTES.md, "Samplers"
STRUCTURE = {'steps': 12, 'cfg_strength': 1.0, 'cfg_interval': [0.5, 1.0], 'rescale_t': 3.0}
LATENT = {'steps': 6, 'cfg_strength': 1.0, 'cfg_interval': [0.5, 1.0], 'rescale_t': 3.0}


def main(src, dst):
    os.makedirs(os.path.join(dst, 'ckpts'), exist_ok=True)
    ms = {
        'sparse_structure_decoder': ('ss_dec_mini_16l8_fp16', part(src, 'ssvae', 'dec', M.SparseStructureDecoder())),
        'sparse_structure_flow_model': ('ss_flow_mini_dit_16l8_fp16', part(src, 'ssflow', 'flow', M.SparseStructureFlowModel())),
        'slat_flow_model': ('slat_flow_mini_dit_64l8p2_fp16', part(src, 'slatflow', 'flow', M.SLatFlowModel())),
        'slat_decoder_mesh': ('slat_dec_mesh_mini_swin8_64l8m256c_fp16', part(src, 'slatvae', 'dec', M.SLatMeshDecoder())),
    }
    total = 0
    for k, (n, m) in ms.items():
        p = os.path.join(dst, 'ckpts', n)
        json.dump({'name': type(m).__name__, 'args': {**m.cfg, 'use_fp16': True}}, open(p + '.json', 'w'), indent=4)
        P.save_safetensors(p + '.safetensors', m.state_dict())
        total += os.path.getsize(p + '.safetensors')
        print(n, sum(q.numel() for q in m.parameters()), 'parameters', os.path.getsize(p + '.safetensors'), 'bytes')
    vit = part(src, 'vit', 'vit', M.ImageEncoder())
    d = os.path.join(dst, 'image_encoder')
    os.makedirs(d, exist_ok=True)
    c = vit.cfg
    json.dump({'architectures': ['Dinov2WithRegistersModel'], 'model_type': 'dinov2_with_registers', **c, 'hidden_act': 'gelu',
               'layer_norm_eps': 1e-6, 'layerscale_value': 1.0, 'num_channels': 3, 'qkv_bias': True, 'use_swiglu_ffn': False,
               'attention_probs_dropout_prob': 0.0, 'hidden_dropout_prob': 0.0, 'drop_path_rate': 0.0, 'initializer_range': 0.02,
               'torch_dtype': 'float16'}, open(os.path.join(d, 'config.json'), 'w'), indent=2)
    P.save_safetensors(os.path.join(d, 'model.safetensors'), vit.state_dict())
    sz = os.path.getsize(os.path.join(d, 'model.safetensors'))
    print('image_encoder', sum(q.numel() for q in vit.parameters()), 'parameters', sz, 'bytes; total', total + sz)
    sampler = lambda params: {'name': 'FlowEulerGuidanceIntervalSampler', 'args': {'sigma_min': 1e-5}, 'params': params}
    json.dump({'name': 'TrellisImageTo3DPipeline', 'args': {
        'models': {k: 'ckpts/' + n for k, (n, _) in ms.items()},
        'sparse_structure_sampler': sampler(STRUCTURE), 'slat_sampler': sampler(LATENT),
        'slat_normalization': {'mean': [0.0] * 8, 'std': [1.0] * 8},
        'image_cond_model': 'image_encoder'}}, open(os.path.join(dst, 'pipeline.json'), 'w'), indent=4)


def back(model, dst):
    """Exported model -> checkpoints that train.py loads with --inp.  The auto-encoders come without their encoders."""
    os.makedirs(dst, exist_ok=True)
    files = json.load(open(os.path.join(model, 'pipeline.json')))['args']['models']
    get = lambda p, pre: {f'{pre}.{k}': v.half() for k, v in P.load_safetensors(os.path.join(model, p + '.safetensors')).items()}
    torch.save(get(files['sparse_structure_decoder'], 'dec'), os.path.join(dst, 'ssvae.pt'))
    torch.save(get(files['slat_decoder_mesh'], 'dec'), os.path.join(dst, 'slatvae.pt'))
    torch.save(get(files['sparse_structure_flow_model'], 'flow'), os.path.join(dst, 'ssflow.pt'))
    torch.save(get(files['slat_flow_model'], 'flow'), os.path.join(dst, 'slatflow.pt'))
    torch.save(get('image_encoder/model', 'vit'), os.path.join(dst, 'vit.pt'))


if __name__ == '__main__':
    if sys.argv[1] == '--back':
        back(*sys.argv[2:4])
        sys.exit()
    main(*sys.argv[1:3])

"""Every technique: one file each, one line here."""

from lantern.techniques import activation_maximization as activation_maximization
from lantern.techniques import activations as activations
from lantern.techniques import arbitrary_style as arbitrary_style
from lantern.techniques import attention_map as attention_map
from lantern.techniques import classify as classify
from lantern.techniques import compare_methods as compare_methods
from lantern.techniques import deep_dream as deep_dream
from lantern.techniques import fast_style as fast_style
from lantern.techniques import feature_inversion as feature_inversion
from lantern.techniques import filters as filters
from lantern.techniques import fooling_image as fooling_image
from lantern.techniques import grad_cam as grad_cam
from lantern.techniques import guided_backprop as guided_backprop
from lantern.techniques import integrated_gradients as integrated_gradients
from lantern.techniques import multifaceted as multifaceted
from lantern.techniques import occlusion as occlusion
from lantern.techniques import rise as rise
from lantern.techniques import saliency as saliency
from lantern.techniques import segment as segment
from lantern.techniques import style_transfer as style_transfer
from lantern.techniques import texture_synthesis as texture_synthesis
from lantern.techniques import train_decoder as train_decoder
from lantern.techniques import train_style as train_style

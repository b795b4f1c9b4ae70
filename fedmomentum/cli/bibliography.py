"""The papers that the schema names: arXiv id -> key, authors, title, year."""

from __future__ import annotations

from typing import NamedTuple


class Paper(NamedTuple):
    """One paper, as BibTeX wants it."""

    key: str
    authors: str
    title: str
    year: int


_KARIMIREDDY = "Karimireddy, Sai Praneeth and "
FLOWER = "2007.14390"

PAPERS: dict[str, Paper] = {
    "1203.5428": Paper(
        "leimkuhler2012baoab",
        "Leimkuhler, Benedict and Matthews, Charles",
        "Rational Construction of Stochastic Numerical Methods for Molecular Sampling",
        2012,
    ),
    "1206.1901": Paper("neal2012hmc", "Neal, Radford M.", "{MCMC} Using {H}amiltonian Dynamics", 2012),
    "1402.4102": Paper(
        "chen2014sghmc",
        "Chen, Tianqi and Fox, Emily B. and Guestrin, Carlos",
        "Stochastic Gradient {H}amiltonian {M}onte {C}arlo",
        2014,
    ),
    "1412.6980": Paper(
        "kingma2014adam", "Kingma, Diederik P. and Ba, Jimmy", "{Adam}: A Method for Stochastic Optimization", 2014
    ),
    "1512.03385": Paper(
        "he2015resnet",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        "Deep Residual Learning for Image Recognition",
        2015,
    ),
    "1602.05629": Paper(
        "mcmahan2016fedavg",
        r"McMahan, H. Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and Ag{\"u}era y Arcas, Blaise",
        "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        2016,
    ),
    "1703.02757": Paper(
        "blanchard2017krum",
        "Blanchard, Peva and El Mhamdi, El Mahdi and Guerraoui, Rachid and Stainer, Julien",
        "Byzantine-Tolerant Machine Learning",
        2017,
    ),
    "1708.07747": Paper(
        "xiao2017fashion",
        "Xiao, Han and Rasul, Kashif and Vollgraf, Roland",
        "{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
        2017,
    ),
    "1710.06963": Paper(
        "mcmahan2017private",
        "McMahan, H. Brendan and Ramage, Daniel and Talwar, Kunal and Zhang, Li",
        "Learning Differentially Private Recurrent Language Models",
        2017,
    ),
    "1711.05101": Paper(
        "loshchilov2017decoupled", "Loshchilov, Ilya and Hutter, Frank", "Decoupled Weight Decay Regularization", 2017
    ),
    "1803.01498": Paper(
        "yin2018byzantine",
        "Yin, Dong and Chen, Yudong and Ramchandran, Kannan and Bartlett, Peter",
        "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
        2018,
    ),
    "1812.06127": Paper(
        "li2018fedprox",
        "Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and Talwalkar, Ameet and Smith, Virginia",
        "Federated Optimization in Heterogeneous Networks",
        2018,
    ),
    "1904.09237": Paper(
        "reddi2019amsgrad",
        "Reddi, Sashank J. and Kale, Satyen and Kumar, Sanjiv",
        "On the Convergence of {Adam} and Beyond",
        2019,
    ),
    "1905.12022": Paper(
        "yurochkin2019bayesian",
        "Yurochkin, Mikhail and Agarwal, Mayank and Ghosh, Soumya and Greenewald, Kristjan and Hoang, Trong Nghia "
        "and Khazaeni, Yasaman",
        "Bayesian Nonparametric Federated Learning of Neural Networks",
        2019,
    ),
    "1909.06335": Paper(
        "hsu2019measuring",
        "Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew",
        "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
        2019,
    ),
    "1910.00643": Paper(
        "wang2019slowmo",
        "Wang, Jianyu and Tantia, Vinayak and Ballas, Nicolas and Rabbat, Michael",
        "{SlowMo}: Improving Communication-Efficient Distributed {SGD} with Slow Momentum",
        2019,
    ),
    "1910.06378": Paper(
        "karimireddy2019scaffold",
        _KARIMIREDDY + "Kale, Satyen and Mohri, Mehryar and Reddi, Sashank J. and Stich, Sebastian U. "
        "and Suresh, Ananda Theertha",
        "{SCAFFOLD}: Stochastic Controlled Averaging for Federated Learning",
        2019,
    ),
    "1912.13445": Paper(
        "pillutla2019robust",
        "Pillutla, Krishna and Kakade, Sham M. and Harchaoui, Zaid",
        "Robust Aggregation for Federated Learning",
        2019,
    ),
    "2003.00295": Paper(
        "reddi2020adaptive",
        "Reddi, Sashank and Charles, Zachary and Zaheer, Manzil and Garrett, Zachary and Rush, Keith "
        r"and Kone{\v{c}}n{\'y}, Jakub and Kumar, Sanjiv and McMahan, H. Brendan",
        "Adaptive Federated Optimization",
        2020,
    ),
    "2007.07481": Paper(
        "wang2020fednova",
        "Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and Poor, H. Vincent",
        "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
        2020,
    ),
    FLOWER: Paper(
        "beutel2020flower",
        "Beutel, Daniel J. and Topal, Taner and Mathur, Akhil and Qiu, Xinchi and others",
        "{Flower}: A Friendly Federated Learning Research Framework",
        2020,
    ),
    "2008.03606": Paper(
        "karimireddy2020mime",
        _KARIMIREDDY + "Jaggi, Martin and Kale, Satyen and Mohri, Mehryar and Reddi, Sashank J. "
        "and Stich, Sebastian U. and Suresh, Ananda Theertha",
        "{Mime}: Mimicking Centralized Stochastic Algorithms in Federated Learning",
        2020,
    ),
    "2009.08716": Paper(
        "yang2020fednag",
        "Yang, Zhengjie and Bao, Wei and Yuan, Dong and Tran, Nguyen H. and Zomaya, Albert Y.",
        "Federated Learning with {Nesterov} Accelerated Gradient",
        2020,
    ),
    "2009.10031": Paper(
        "ramaswamy2020training",
        "Ramaswamy, Swaroop and Thakkar, Om and Mathews, Rajiv and Andrew, Galen and McMahan, H. Brendan and "
        r"Beaufays, Fran{\c{c}}oise",
        "Training Production Language Models without Memorizing User Data",
        2020,
    ),
    "2012.09102": Paper(
        "ozfatura2020fedadc",
        r"Ozfatura, Kerem and Ozfatura, Emre and G{\"u}nd{\"u}z, Deniz",
        "{FedADC}: Accelerated Federated Learning with Drift Control",
        2020,
    ),
    "2102.02079": Paper(
        "li2021silos",
        "Li, Qinbin and Diao, Yiqun and Chen, Quan and He, Bingsheng",
        "Federated Learning on Non-{IID} Data Silos: An Experimental Study",
        2021,
    ),
    "2102.03970": Paper(
        "xu2021domo",
        "Xu, An and Huang, Heng",
        "Coordinating Momenta for Cross-silo Federated Learning",
        2021,
    ),
    "2102.07623": Paper(
        "li2021fedbn",
        "Li, Xiaoxiao and Jiang, Meirui and Zhang, Xiaofei and Kamp, Michael and Dou, Qi",
        "{FedBN}: Federated Learning on Non-{IID} Features via Local Batch Normalization",
        2021,
    ),
    "2106.10874": Paper(
        "xu2021fedcm",
        "Xu, Jing and Wang, Sen and Wang, Liwei and Yao, Andrew Chi-Chih",
        "{FedCM}: Federated Learning with Client-level Momentum",
        2021,
    ),
    "2111.04263": Paper(
        "acar2021feddyn",
        "Acar, Durmus Alp Emre and Zhao, Yue and Matas Navarro, Ramon and Mattina, Matthew and Whatmough, Paul N. "
        "and Saligrama, Venkatesh",
        "Federated Learning Based on Dynamic Regularization",
        2021,
    ),
    "1506.04696": Paper(
        "ma2015recipe",
        "Ma, Yi-An and Chen, Tianqi and Fox, Emily B.",
        "A Complete Recipe for Stochastic Gradient {MCMC}",
        2015,
    ),
    "2004.11231": Paper(
        "elmekkaoui2020fsgld",
        "El Mekkaoui, Khaoula and Mesquita, Diego and Blomstedt, Paul and Kaski, Samuel",
        "Federated Stochastic Gradient {Langevin} Dynamics",
        2020,
    ),
    "2010.05273": Paper(
        "alshedivat2020fedpa",
        "Al-Shedivat, Maruan and Gillenwater, Jennifer and Xing, Eric and Rostamizadeh, Afshin",
        "Federated Learning via Posterior Averaging: A New Perspective and Practical Algorithms",
        2020,
    ),
    "2106.00797": Paper(
        "vono2021qlsd",
        "Vono, Maxime and Plassier, Vincent and Durmus, Alain and Dieuleveut, Aymeric and Moulines, Eric",
        "{QLSD}: Quantised {Langevin} Stochastic Dynamics for {Bayesian} Federated Learning",
        2021,
    ),
    "2106.06300": Paper(
        "plassier2021dglmc",
        "Plassier, Vincent and Vono, Maxime and Durmus, Alain and Moulines, Eric",
        "{DG-LMC}: A Turn-key and Scalable Synchronous Distributed {MCMC} Algorithm via {Langevin} Monte Carlo within "
        "{Gibbs}",
        2021,
    ),
    "2112.05120": Paper(
        "deng2021fald",
        "Deng, Wei and Zhang, Qian and Ma, Yi-An and Song, Zhao and Lin, Guang",
        "On Convergence of Federated Averaging {Langevin} Dynamics",
        2021,
    ),
    "2301.09604": Paper(
        "jhunjhunwala2023fedexp",
        "Jhunjhunwala, Divyansh and Wang, Shiqiang and Joshi, Gauri",
        "{FedExP}: Speeding Up Federated Averaging via Extrapolation",
        2023,
    ),
    "2302.06675": Paper(
        "chen2023lion",
        "Chen, Xiangning and Liang, Chen and Huang, Da and Real, Esteban and others",
        "Symbolic Discovery of Optimization Algorithms",
        2023,
    ),
    "2312.12670": Paper(
        "sun2023fedgm",
        "Sun, Jianhui and Wu, Xidong and Huang, Heng and Zhang, Aidong",
        "On the Role of Server Momentum in Federated Learning",
        2023,
    ),
}


def bibtex(arxiv: str) -> str:
    """Give the BibTeX entry of a paper; one that is not in the table gets its number alone."""
    paper = PAPERS.get(arxiv)
    if paper is None:
        return f"@misc{{arxiv{arxiv},\n  eprint = {{{arxiv}}},\n  archivePrefix = {{arXiv}}\n}}"
    fields = {"author": paper.authors, "title": paper.title, "year": str(paper.year), "eprint": arxiv}
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in (fields | {"archivePrefix": "arXiv"}).items())
    return f"@misc{{{paper.key},\n{body}\n}}"
